# %% [markdown]
# # Which neurons translate a sign?
#
# This example finds the neurons of the embedded model that matter for translating signs into German and French,
# trains only those for half a minute, and shows what changed. It needs no download. `make notebook` makes this
# notebook from `docs/examples/signs.py`.

# %%
import matplotlib.pyplot as plt
import torch
from peft import get_peft_model

from neuroglot import Batcher, NeuroglotConfig, active_pair, load_model, load_processor, profile, select
from neuroglot.data.corpus import Sizes, load_corpus
from neuroglot.data.image import open_image
from neuroglot.evaluation import score
from neuroglot.systems import HFSystem

torch.manual_seed(0)
pairs, steps = ["en-de", "en-fr"], 60
model, batcher = load_model("embedded"), Batcher(load_processor("embedded"))
sizes = Sizes(train=480, dev=0, test=40, heldout=0, retention=0)
corpus = load_corpus("signs", "image_translation", pairs, sizes, seed=0, describes=False)
test = corpus.splits["image_translation"]

# %% [markdown]
# ## A sign
#
# An example has an image, a target and a pair of languages. The embedded corpus draws an image when it is needed.

# %%
first = test[0]
print(first.pair, repr(first.target))
plt.figure(figsize=(2, 2))
plt.imshow(open_image(first.images[0]))
plt.axis("off")
plt.show()

# %% [markdown]
# ## Importance of every neuron
#
# One pass over the data measures |activation × gradient| of every neuron, for each pair.

# %%
importance = profile(model, batcher.batches(corpus.profile[:96], size=16))
print(len(importance.layers), "layers,", sum(layer.neurons for layer in importance.layers), "neurons")

# %% [markdown]
# ## Selection
#
# We take ten percent of the neurons. Most serve both pairs, and some only one.

# %%
selection = select(importance, method="mnaft", budget=0.1)
groups: dict[str, int] = {}
for _, group, rows in selection:
    name = " and ".join(sorted(group))
    groups[name] = groups.get(name, 0) + len(rows)
print(groups)

# %% [markdown]
# ## Training
#
# Every batch is of one pair, and `active_pair` says which. Rows of the other pair get no gradient.

# %%
before = HFSystem(model, batcher, "before").translate(test)
tuned = get_peft_model(model, NeuroglotConfig.from_selection(selection))
tuned.print_trainable_parameters()
optimizer = torch.optim.AdamW(tuned.parameters(), lr=3e-3)
losses = []
tuned.train()
by_pair = {pair: [example for example in corpus.train if str(example.pair) == pair] for pair in pairs}
for step in range(steps):
    pair = pairs[step % 2]
    examples = by_pair[pair][step // 2 * 16 :][:16]
    with active_pair(tuned, pair):
        loss = tuned(**batcher.encode(examples)).loss
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
tuned.eval()
plt.figure(figsize=(6, 2.5))
plt.plot(losses)
plt.xlabel("step")
plt.ylabel("loss")
plt.show()

# %% [markdown]
# ## Before and after
#
# Training did not see these signs. Sixty steps are a beginning; `make demo` trains longer.

# %%
after = HFSystem(tuned, batcher, "after").translate(test)
references = [example.target for example in test]
german = [number for number, example in enumerate(test) if str(example.pair) == "en-de"]
for name, answers in (("before", before), ("after", after)):
    figures = score([answers[n] for n in german], [references[n] for n in german], "de")
    print(f"{name:>6}: chrF++ {figures['chrf']:.1f}")
for number in german[:5]:
    print(f"{references[number]!r:32} {before[number]!r:32} {after[number]!r}")

# %% [markdown]
# ## A plain model
#
# After merging it is an ordinary transformers model, which no longer needs neuroglot.

# %%
merged = tuned.merge_and_unload()
print(type(merged).__name__)
