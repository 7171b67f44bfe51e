"""Made data: signs, pictures and scenes, and the rendering of any text as an image."""
