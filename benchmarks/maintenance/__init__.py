"""What is made once and shipped: bundled backbones and the card of digits."""
