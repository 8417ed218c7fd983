"""SyncNet: how well lips and audio agree, and by how much one is late (Chung and Zisserman 2016)."""
