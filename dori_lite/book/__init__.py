"""What the notebooks and the site need: profiles, runs, figures, the builder."""
