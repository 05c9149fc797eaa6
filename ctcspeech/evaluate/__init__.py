"""How good a recogniser is: error rates, the search for the decoder's weights, pictures."""
