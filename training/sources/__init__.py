"""Every form that labelled images come in, read into a `training.collection.Collection`."""
