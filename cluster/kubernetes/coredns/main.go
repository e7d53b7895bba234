// CoreDNS with the plugins that the embedded cluster's Corefile names. The full server also holds
// clients of three clouds, which take longer to compile than all the rest.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// Plugins answer in this order, which is CoreDNS' own.
func init() {
	dnsserver.Directives = []string{"ready", "health", "errors", "cache", "template", "kubernetes", "forward"}
}

func main() {
	coremain.Run()
}
