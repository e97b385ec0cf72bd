"""The animatable head in Blender: from the worker's rig.npz to mesh, bones, shapes and materials."""
