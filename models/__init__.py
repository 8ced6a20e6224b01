"""Reference models and images of primesvt-deploy, found as `primesvt_deploy_models`."""
