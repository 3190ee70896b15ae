"""The data of `stdpipe demo`: seven real clips and a small trained EDVR (see SOURCES.md)."""
