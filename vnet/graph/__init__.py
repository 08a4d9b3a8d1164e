"""A topology or a running system as a graph, and its pictures: SVG, Mermaid, and the DOT language of Graphviz."""
