"""From pictures to shards: sources list items, routes make samples of them, the engine keeps count.

`item` is what a source lists, `sources` the adapters, `plan` their splits and shards; `leakage`
compares pictures by content. The routes are `in_the_wild`, `aperture_series`, `deblur_pairs` and
`rendered` (of `subjects`, with `draws` of focus and blur); `pairs` and `working` measure for them,
and `gates` turns measures away. `engine` writes shards that do not depend on how many processes or
jobs wrote them. `outcome` reads back what came of it, `report` and `inspection` show it, and
`review` asks a person about it.
"""
