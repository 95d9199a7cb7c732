"""The native library: compilers, builds, the cache of libraries, and which one is live."""
