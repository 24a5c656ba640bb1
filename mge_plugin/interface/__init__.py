"""What is added to stable-audio-tools' Gradio interface."""
