"""How a model is made: data, the loop, evaluation, export and publishing."""
