"""Training: one Trainer for every stage; a stage is data (configs/*/stage1.yaml, stage2.yaml)."""
