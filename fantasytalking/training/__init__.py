"""Training: one Trainer for every stage; a stage is a YAML file (configs/*/stage1.yaml, stage2.yaml, ...)."""
