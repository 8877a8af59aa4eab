"""From pictures to shards: sources list items, routes make samples of them, the engine keeps count.

`item` is what a source lists, `sources` the adapters, `pairs` measures real pairs, `leakage`
compares pictures by content, `gates` turns measures away, `engine` writes shards that do not
depend on how many processes or jobs wrote them. `outcome` reads back what came of it, `report` and
`inspection` show it, and `review` asks a person about it.
"""
