"""The peers that benchmarks compare with, each as plain as it can be."""
