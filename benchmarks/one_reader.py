"""One of several processes that read a cache at once, started by read.py.

python benchmarks/one_reader.py CACHE PATCH CROPS I N
Reads one crop, says "ready", waits for a line, then reads CROPS crops of its own (of those of all N
processes every Nth, from the Ith on) and prints when it began and when it ended.
"""

import sys
import time

from windows import draw, through_reader

from stdpipe.cache import open_reader
from stdpipe.cache.shards import use_one_thread

path, patch, crops, index, count = sys.argv[1], *map(int, sys.argv[2:])
use_one_thread()
reader = open_reader(path)
read = through_reader(reader, halo=2)
windows = draw(reader, list(reader.entries), patch, crops * count)[index::count]
read(windows[0])
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
for window in windows:
    read(window)
print(began, time.monotonic())
