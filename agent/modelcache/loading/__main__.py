"""The process that `reader` starts."""

from modelcache.loading.reader import main

main()
