"""`python -m ants_lightning.demo.train`: train the miniature CLIP and LLaVA that the package ships."""
