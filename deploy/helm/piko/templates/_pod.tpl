{{- /* What pods of nodes and of agents have in common: (list $ "server" values). */ -}}

{{- define "piko.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $v := index . 2 -}}
# None that says the chart's version: that alone restarts nothing.
labels:
  {{- toYaml (merge (include "piko.selector" (list $root $component) | fromYaml) $v.podLabels $root.Values.commonLabels) | nindent 2 }}
annotations:
  # Changes with what needs a restart; the rest is taken over while piko runs.
  checksum/config: {{ include (printf "piko.%sRestart" $component) $root | sha256sum }}
  {{- if $root.Values.monitoring.scrapeAnnotations }}
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ ternary $root.Values.server.admin.port $root.Values.agent.port (eq $component "server") | int | quote }}
  {{- if and (eq $component "server") $root.Values.server.admin.tls.enabled }}
  prometheus.io/scheme: https
  {{- end }}
  {{- end }}
  {{- with merge (dict) $v.podAnnotations $root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "piko.podSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $v := index . 2 -}}
serviceAccountName: {{ include "piko.serviceAccount" $root }}
automountServiceAccountToken: false
enableServiceLinks: false # its variables would begin with PIKO_, as piko's own do
terminationGracePeriodSeconds: {{ include "piko.terminationSeconds" . }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $v.podSecurityContext | nindent 2 }}
{{- range $key := list "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" }}
{{- with get $v $key }}
{{ $key }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "hostAliases" "dnsConfig" "initContainers" }}
{{- with get $v $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if $v.affinity }}
affinity:
  {{- toYaml $v.affinity | nindent 2 }}
{{- else if eq $component "server" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "piko.selector" (list $root $component) | nindent 14 }}
{{- end }}
{{- $spread := $v.topologySpreadConstraints | default (list (dict "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway"
      "topologyKey" (ternary "topology.kubernetes.io/zone" "kubernetes.io/hostname" (eq $component "server")))) }}
topologySpreadConstraints:
  {{- range $spread }}
  - {{ toYaml (merge (dict) . (dict "labelSelector" (dict "matchLabels" (include "piko.selector" (list $root $component) | fromYaml)))) | nindent 4 | trim }}
  {{- end }}
{{- end -}}

{{- /* More than the grace period: what is cut is then cut by piko, which says so. */ -}}
{{- define "piko.terminationSeconds" -}}
{{- $where := printf "%s.config." (index . 1) -}}
{{- $v := index . 2 -}}
{{- $grace := include "piko.seconds" (list (printf "%sgrace_period" $where) (get $v.config "grace_period" | default "1m")) | int -}}
{{- $delay := include "piko.seconds" (list (printf "%sshutdown_delay" $where) (get $v.config "shutdown_delay" | default "0s")) | int -}}
{{- if and $delay (ge $delay $grace) -}}
{{- fail (printf "%sshutdown_delay: %v is not below grace_period, of which it is a part; set grace_period above it" $where (get $v.config "shutdown_delay")) -}}
{{- end -}}
{{- add $grace (int $v.terminationMarginSeconds) -}}
{{- end -}}

{{- /* The end of a container: (list $ component values). */ -}}
{{- define "piko.containerCommon" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $v := index . 2 -}}
{{- range $probe := list "startupProbe" "readinessProbe" "livenessProbe" }}
{{- with get $v $probe }}
{{- $p := deepCopy . }}
{{- if $p.httpGet }}
{{- $ask := dict "port" (ternary "admin" "metrics" (eq $component "server")) }}
{{- if and (eq $component "server") $root.Values.server.admin.tls.enabled }}{{- $_ := set $ask "scheme" "HTTPS" }}{{- end }}
{{- $_ := set $p "httpGet" (merge (dict) $p.httpGet $ask) }}
{{- end }}
{{ $probe }}:
  {{- toYaml $p | nindent 2 }}
{{- end }}
{{- end }}
resources:
  {{- toYaml $v.resources | nindent 2 }}
securityContext:
  {{- toYaml $v.securityContext | nindent 2 }}
{{- end -}}
