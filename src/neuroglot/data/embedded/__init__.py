"""What the embedded model was taught from: signs that Babel makes, and simple pictures."""
