"""Any OpenAI-compatible endpoint as a System: vLLM, GPT-4o and whatever else answers chat completions."""

from neuroglot.systems.endpoint.bill import Price
from neuroglot.systems.endpoint.client import Patience
from neuroglot.systems.endpoint.system import Endpoint

__all__ = ["Endpoint", "Patience", "Price"]
