"""The configuration of the zoo for Hydra, also reachable as `pkg://dynfilters.conf`.

In one's own Hydra application:

    hydra:
      searchpath: [pkg://dynfilters.conf]
    defaults:
      - /filter: ddf
      - /activation: sigmoid

and then `dynfilters.create_filter(in_channels=64, **cfg.filter)`.
"""
