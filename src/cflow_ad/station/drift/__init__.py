"""What a stream of parts tells: whether it drifts, and how often verdicts are wrong.

`monitor` feeds the station's records to `exchangeability`, which joins the parts of the test:
`measures` of an image, their online p-values by `reference`, the bets of `martingale`
and the date of `change`. `audit` error rates from blind random draws, by
`intervals`.
"""
