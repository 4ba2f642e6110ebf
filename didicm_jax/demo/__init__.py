"""A page to play with: images in, posteriors out. Only `page` and `serving` need Gradio."""
