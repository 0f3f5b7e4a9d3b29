"""What the two processes say to each other: messages, frames, and streams that carry them."""
