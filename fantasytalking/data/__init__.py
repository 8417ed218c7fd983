"""From a folder of talking videos to training batches: preparation on one side, the dataset on the other."""
