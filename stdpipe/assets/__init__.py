"""What `stdpipe demo` runs on: seven real clips and a small trained EDVR (see SOURCES.md)."""
