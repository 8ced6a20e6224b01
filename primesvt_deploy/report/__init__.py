"""Pages and plots for people: the HTML report of a build, plots of frontiers and benchmarks."""
