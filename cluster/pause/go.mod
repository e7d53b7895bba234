// The process that holds a pod's namespaces in the embedded cluster.
module windlass.dev/cluster/pause

go 1.25.0
