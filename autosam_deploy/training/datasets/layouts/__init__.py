"""Layouts of labelled data: each recognises a folder and pairs its images and labels."""
