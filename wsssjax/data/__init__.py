"""What comes in: data sets, batches, transforms, label-map files."""
