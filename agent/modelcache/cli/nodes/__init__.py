"""What nodes hold and do at this moment, for `status` and `top`: asked for, added up, shown."""
