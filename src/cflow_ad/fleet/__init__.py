"""Many products, large archives and many machines.

`objects` keeps bytes by key in a folder or in an object store, `models` keeps the versions of each
product's model there. `pool` runs tasks on workers that may die, as processes of this machine or as
Ray actors (`on_ray`). `training` trains one product, `archive` and `scoring` score one shard.
"""
