"""A page to play with: images in, posteriors out. `page` needs Gradio, the rest does not."""
