"""What chapters need beside the package: profiles, claims and their effects, tables, publishing, the builder."""
