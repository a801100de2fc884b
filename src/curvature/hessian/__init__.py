"""Second-order measures of a trained network, thin over curvlinops and scipy."""
