"""Label efficiency: how good a method becomes with how few labelled volumes."""
