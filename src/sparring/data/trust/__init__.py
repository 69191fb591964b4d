"""What each image can teach: knowledge of its dirt, on the way to training."""
