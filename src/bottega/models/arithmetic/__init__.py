"""What the kernels compute with: `plain` by torch, `native` in C++."""
