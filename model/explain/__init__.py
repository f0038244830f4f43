"""What a network makes of an image, and why it says what it says: no HTTP, and no torch but in `gradients`."""
