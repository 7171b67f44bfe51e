"""Any image-text-to-text model of transformers, its parts, and the small one that comes with the package."""
