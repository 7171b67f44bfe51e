"""What the figures are made with: tokenisers by language, order-free lines, and COMET in an environment of its own."""
