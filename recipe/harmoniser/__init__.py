"""The harmony network, trained on the notes of made-up songs: `python -m recipe.harmoniser`.

Songs are composed on the fly and their notes laid out as features, without a sound: tens of thousands in minutes. They
are judged as they will be used, on the features of rendered vocals, and on songs that nothing was trained on.
"""
