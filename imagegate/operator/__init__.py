"""The operator's web app: the Gradio panel and REST."""
