{{- /* The configuration file of nodes, and the secrets that it names. */ -}}

{{- /* Where a secret is mounted. */ -}}
{{- define "piko.secretDir" -}}/etc/piko/secrets/{{ . }}{{- end -}}

{{- /* The secret with the certificate of a port: (list $ "proxy"), or "cluster". */ -}}
{{- define "piko.tlsSecret" -}}
{{- $root := index . 0 -}}
{{- $port := index . 1 -}}
{{- $tls := (index $root.Values.server $port).tls -}}
{{- if $tls.certificate.enabled -}}
{{- if $tls.existingSecret -}}{{- fail (printf "server.%s.tls: has both existingSecret and certificate; use one of them" $port) -}}{{- end -}}
{{ include "piko.fullname" $root }}-{{ $port }}-tls
{{- else -}}
{{- required (printf "server.%s.tls.existingSecret: is empty; name a secret with tls.crt and tls.key, or use certificate.enabled for one of cert-manager" $port) $tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{- /* The tls section of a port: (list $ "proxy"). */ -}}
{{- define "piko.tls" -}}
{{- $root := index . 0 -}}
{{- $port := index . 1 -}}
{{- $tls := (index $root.Values.server $port).tls -}}
{{- if $tls.enabled -}}
{{- $section := dict "cert" list "key" list -}}
{{- range prepend $tls.extraSecrets (include "piko.tlsSecret" .) -}}
{{- $_ := set $section "cert" (append $section.cert (printf "%s/tls.crt" (include "piko.secretDir" .))) -}}
{{- $_ := set $section "key" (append $section.key (printf "%s/tls.key" (include "piko.secretDir" .))) -}}
{{- end -}}
{{- with $tls.minVersion -}}{{- $_ := set $section "min_version" (toString .) -}}{{- end -}}
{{- with get $tls "clientCAs" -}}
{{- if .existingSecret -}}{{- $_ := set $section "client_cas" (printf "%s/%s" (include "piko.secretDir" .existingSecret) .key) -}}{{- end -}}
{{- end -}}
{{- if eq $port "admin" -}}
{{- $client := dict "server_name" ($tls.serverName | default (printf "%s-admin" (include "piko.fullname" $root))) -}}
{{- with $tls.caKey -}}{{- $_ := set $client "root_cas" (printf "%s/%s" (include "piko.secretDir" (include "piko.tlsSecret" (list $root $port))) .) -}}{{- end -}}
{{- $_ := set $section "client" $client -}}
{{- end -}}
{{- toYaml $section -}}
{{- end -}}
{{- end -}}

{{- /* An auth section: (list $ "proxy" auth). The name is that of the secrets that the chart makes of it. */ -}}
{{- define "piko.auth" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $auth := index . 2 -}}
{{- $section := dict -}}
{{- range $kind := list "hmacSecretKey" "rsaPublicKey" "ecdsaPublicKey" "eddsaPublicKey" -}}
{{- $key := snakecase $kind -}}
{{- $files := list -}}
{{- range get $auth (printf "%sFiles" $kind) | default list -}}
{{- $dir := include "piko.secretDir" (required (printf "auth of %s: %sFiles without existingSecret; name the secret that has %s" $name $kind .) (get $auth "existingSecret")) -}}
{{- $files = append $files (printf "%s/%s" $dir .) -}}
{{- end -}}
{{- with get $auth (printf "%ss" $kind) -}}
{{- if eq $kind "hmacSecretKey" -}}
{{- $files = append $files (printf "%s/%s" (include "piko.secretDir" (printf "%s-server-keys" (include "piko.fullname" $root))) $name) -}}
{{- else -}}
{{- $_ := set $section $key . -}}
{{- end -}}
{{- end -}}
{{- with $files -}}{{- $_ := set $section (printf "%s_file" $key) . -}}{{- end -}}
{{- end -}}
{{- with get $auth "jwks" -}}
{{- if get . "endpoint" -}}
{{- $jwks := dict "endpoint" .endpoint -}}
{{- with get . "cacheTTL" -}}{{- $_ := set $jwks "cache_ttl" . -}}{{- end -}}
{{- with get . "timeout" -}}{{- $_ := set $jwks "timeout" . -}}{{- end -}}
{{- $_ := set $section "jwks" $jwks -}}
{{- end -}}
{{- end -}}
{{- range $key := list "audience" "issuer" "requireExpiry" "requireEndpoints" "disableDisconnectOnExpiry" -}}
{{- with get $auth $key -}}{{- $_ := set $section (snakecase $key) . -}}{{- end -}}
{{- end -}}
{{- if $section -}}{{- toYaml $section -}}{{- end -}}
{{- end -}}

{{- /* The name of a tenant's secrets: not every tenant's id can be a key of a Secret. */ -}}
{{- define "piko.tenantName" -}}{{ index . 0 }}-tenant-{{ index . 1 | lower | sha256sum | trunc 16 }}{{- end -}}

{{- /* Every auth section, as {sections: [{name, auth}]}. */ -}}
{{- define "piko.auths" -}}
{{- $all := list -}}
{{- range $port := list "proxy" "upstream" "admin" -}}
{{- $all = append $all (dict "name" $port "auth" (index $.Values.server $port).auth) -}}
{{- end -}}
{{- range $port := list "proxy" "upstream" -}}
{{- range index $.Values.server.tenants $port -}}
{{- $all = append $all (dict "name" (include "piko.tenantName" (list $port .id)) "auth" (get . "auth" | default dict)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "sections" $all) -}}
{{- end -}}

{{- /* The tenants of a port, as {tenants: [...]}. */ -}}
{{- define "piko.tenants" -}}
{{- $root := index . 0 -}}
{{- $port := index . 1 -}}
{{- $list := list -}}
{{- range index $root.Values.server.tenants $port -}}
{{- $t := dict "id" .id -}}
{{- with include "piko.auth" (list $root (include "piko.tenantName" (list $port .id)) (get . "auth" | default dict)) | fromYaml -}}
{{- $_ := set $t "auth" . -}}
{{- end -}}
{{- with get . "domains" -}}{{- $_ := set $t "domains" . -}}{{- end -}}
{{- $list = append $list $t -}}
{{- end -}}
{{- toYaml (dict "tenants" $list) -}}
{{- end -}}

{{- define "piko.clusterSecret" -}}
{{- .Values.server.cluster.secret.existingSecret | default (printf "%s-cluster" (include "piko.fullname" .)) -}}
{{- end -}}

{{- /* The whole file. */ -}}
{{- define "piko.serverConfig" -}}
{{- $s := .Values.server -}}
{{- $reserved := dict "cluster.secret" "server.cluster.secret" "cluster.secret_file" "server.cluster.secret" "cluster.tls" "server.cluster.tls"
      "cluster.gossip.bind_addr" "server.gossip.port" "tenants" "server.tenants" "events.webhook_url" "server.webhook"
      "events.webhook_secret" "server.webhook" "events.webhook_secret_file" "server.webhook"
      "admin.tls.client_cas" "server.admin.auth: the kubelet's probes have no certificate" -}}
{{- range list "proxy" "upstream" "admin" -}}
{{- $_ := set $reserved (printf "%s.bind_addr" .) (printf "server.%s.port" .) -}}
{{- $_ := set $reserved (printf "%s.auth" .) (printf "server.%s.auth" .) -}}
{{- $_ := set $reserved (printf "%s.tenants" .) (printf "server.tenants.%s" .) -}}
{{- $port := . -}}
{{- if (index $s $port).tls.enabled -}}
{{- range list "cert" "key" "client_cas" "min_version" "client" -}}
{{- $_ := set $reserved (printf "%s.tls.%s" $port .) (printf "server.%s.tls" $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "piko.reserved" (list "server.config" $s.config $reserved) -}}
{{- $config := deepCopy $s.config -}}
{{- range $port := list "proxy" "upstream" "admin" -}}
{{- $section := dict "bind_addr" (printf ":%d" (int (index $s $port).port)) -}}
{{- with include "piko.tls" (list $ $port) | fromYaml -}}{{- $_ := set $section "tls" . -}}{{- end -}}
{{- with include "piko.auth" (list $ $port (index $s $port).auth) | fromYaml -}}{{- $_ := set $section "auth" . -}}{{- end -}}
{{- if ne $port "admin" -}}
{{- with (include "piko.tenants" (list $ $port) | fromYaml).tenants -}}{{- $_ := set $section "tenants" . -}}{{- end -}}
{{- end -}}
{{- $config = mergeOverwrite $config (dict $port $section) -}}
{{- end -}}
{{- $cluster := dict "secret_file" (printf "%s/%s" (include "piko.secretDir" (include "piko.clusterSecret" .)) $s.cluster.secret.key)
      "gossip" (dict "bind_addr" (printf ":%d" (int $s.gossip.port))) -}}
{{- if $s.cluster.tls.enabled -}}
{{- $dir := include "piko.secretDir" (include "piko.tlsSecret" (list . "cluster")) -}}
{{- $_ := set $cluster "tls" (dict "cert" (printf "%s/tls.crt" $dir) "key" (printf "%s/tls.key" $dir)
      "cas" (printf "%s/%s" $dir $s.cluster.tls.caKey) "server_name" $s.cluster.tls.serverName) -}}
{{- end -}}
{{- $config = mergeOverwrite $config (dict "cluster" $cluster) -}}
{{- if $s.tenants.isolated -}}{{- $_ := set $config "tenants" (dict "isolated" true) -}}{{- end -}}
{{- with $s.webhook -}}
{{- if .url -}}
{{- $events := dict "webhook_url" .url -}}
{{- with .existingSecret -}}{{- $_ := set $events "webhook_secret_file" (printf "%s/%s" (include "piko.secretDir" .) $s.webhook.key) -}}{{- end -}}
{{- $config = mergeOverwrite $config (dict "events" $events) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* What of it needs a restart. Tokens, tenants and certificates are taken over, but not that there are any. */ -}}
{{- define "piko.serverRestart" -}}
{{- $config := include "piko.serverConfig" . | fromYaml -}}
{{- $has := list -}}
{{- range list "proxy.auth" "upstream.auth" "admin.auth" "proxy.tenants" "upstream.tenants" "proxy.tls" "upstream.tls" "admin.tls" "cluster.tls" -}}
{{- if include "piko.at" (list $config .) -}}{{- $has = append $has . -}}{{- end -}}
{{- end -}}
{{- include "piko.needsRestart" (list $config (.Files.Get "files/reloaded.json" | fromJson).server) }}
{{ toYaml $has }}
{{- end -}}

{{- /* The names of all secrets that nodes need, as {secrets: [...]}. */ -}}
{{- define "piko.serverSecrets" -}}
{{- $s := .Values.server -}}
{{- $names := list (include "piko.clusterSecret" .) -}}
{{- range $port := list "proxy" "upstream" "admin" "cluster" -}}
{{- $tls := (index $s $port).tls -}}
{{- if $tls.enabled -}}
{{- $names = append $names (include "piko.tlsSecret" (list $ $port)) -}}
{{- range get $tls "extraSecrets" | default list -}}{{- $names = append $names . -}}{{- end -}}
{{- with get $tls "clientCAs" -}}{{- with .existingSecret -}}{{- $names = append $names . -}}{{- end -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range (include "piko.auths" . | fromYaml).sections -}}
{{- with get .auth "existingSecret" -}}{{- $names = append $names . -}}{{- end -}}
{{- if get .auth "hmacSecretKeys" -}}{{- $names = append $names (printf "%s-server-keys" (include "piko.fullname" $)) -}}{{- end -}}
{{- end -}}
{{- if $s.webhook.url -}}{{- with $s.webhook.existingSecret -}}{{- $names = append $names . -}}{{- end -}}{{- end -}}
{{- toYaml (dict "secrets" (uniq $names)) -}}
{{- end -}}

{{- /* The configuration file of agents. */ -}}
{{- define "piko.agentConfig" -}}
{{- $a := .Values.agent -}}
{{- include "piko.reserved" (list "agent.config" $a.config (dict "connect.url" "agent.connect.urls" "connect.token" "agent.connect.token"
      "connect.token_file" "agent.connect.token" "connect.tenant_id" "agent.connect.tenantID" "connect.tls.cert" "agent.connect.tls.existingSecret"
      "connect.tls.key" "agent.connect.tls.existingSecret" "connect.tls.root_cas" "agent.connect.tls.rootCAs"
      "connect.tls.server_name" "agent.connect.tls.serverName" "server" "agent.port")) -}}
{{- $urls := $a.connect.urls -}}
{{- if not $urls -}}
{{- if not (and .Values.server.enabled .Values.server.upstream.service.enabled) -}}
{{- fail "agent.connect.urls: is empty, and this release has no nodes; name the URL of their upstream port" -}}
{{- end -}}
{{- $urls = list (printf "%s://%s-upstream:%d" (ternary "https" "http" .Values.server.upstream.tls.enabled) (include "piko.fullname" .) (int .Values.server.upstream.service.port)) -}}
{{- end -}}
{{- $connect := dict "url" $urls -}}
{{- with $a.connect.tenantID -}}{{- $_ := set $connect "tenant_id" . -}}{{- end -}}
{{- if or $a.connect.token.existingSecret $a.connect.token.value -}}{{- $_ := set $connect "token_file" (printf "/etc/piko/token/%s" $a.connect.token.key) -}}{{- end -}}
{{- $tls := dict -}}
{{- with $a.connect.tls -}}
{{- if or .rootCAs.existingSecret .rootCAs.existingConfigMap -}}{{- $_ := set $tls "root_cas" (printf "/etc/piko/roots/%s" .rootCAs.key) -}}{{- end -}}
{{- if .existingSecret -}}
{{- $_ := set $tls "cert" "/etc/piko/certificate/tls.crt" -}}
{{- $_ := set $tls "key" "/etc/piko/certificate/tls.key" -}}
{{- end -}}
{{- with .serverName -}}{{- $_ := set $tls "server_name" . -}}{{- end -}}
{{- end -}}
{{- with $tls -}}{{- $_ := set $connect "tls" . -}}{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy $a.config) (dict "connect" $connect "server" (dict "enabled" true "bind_addr" (printf ":%d" (int $a.port))))) -}}
{{- end -}}

{{- define "piko.agentRestart" -}}
{{- include "piko.needsRestart" (list (include "piko.agentConfig" . | fromYaml) (.Files.Get "files/reloaded.json" | fromJson).agent) -}}
{{- end -}}
