"""From a module with SpikingJelly neurons to stateless arithmetic, and on to ONNX."""
