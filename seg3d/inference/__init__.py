"""From a trained network and a scan to a label map on the scan's own grid."""
