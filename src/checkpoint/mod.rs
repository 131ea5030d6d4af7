//! Checkpoints: model folders in Hugging Face layout.
