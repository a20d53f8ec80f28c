{{- /* Names and labels. */ -}}

{{- define "piko.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "piko.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "piko.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "piko.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The labels by which pods are selected: (list $ "server"). They never change. */ -}}
{{- define "piko.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "piko.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* All labels of an object: (list $ component more...), each more a map. */ -}}
{{- define "piko.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := dict "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
      "app.kubernetes.io/version" ($root.Values.image.tag | default $root.Chart.AppVersion | trunc 63)
      "app.kubernetes.io/managed-by" $root.Release.Service
      "app.kubernetes.io/part-of" "piko" -}}
{{- range slice . 2 -}}{{- $labels = merge (dict) (. | default dict) $labels -}}{{- end -}}
{{- $labels = merge (include "piko.selector" (list $root (index . 1)) | fromYaml) $root.Values.commonLabels $labels -}}
{{- toYaml $labels -}}
{{- end -}}

{{- /* metadata of an object: (list $ name component labels annotations). */ -}}
{{- define "piko.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
labels:
  {{- include "piko.labels" (list $root (index . 2) (index . 3)) | nindent 2 }}
{{- with merge (dict) (index . 4) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "piko.image" -}}
{{- $i := .Values.image -}}
{{- if $i.digest -}}
{{ $i.repository }}@{{ $i.digest }}
{{- else -}}
{{ $i.repository }}:{{ $i.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "piko.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "piko.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* Whole seconds of a duration such as 1m30s, rounded up: (list "what" duration). */ -}}
{{- define "piko.seconds" -}}
{{- $d := index . 1 | toString -}}
{{- if not (regexMatch "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$" $d) -}}
{{- fail (printf "%s: %q is no duration; write it as 30s, 5m or 1m30s" (index . 0) $d) -}}
{{- end -}}
{{- $zero := toDate "2006-01-02" "2006-01-02" -}}
{{- $end := mustDateModify $d $zero -}}
{{- $seconds := sub $end.Unix $zero.Unix -}}
{{- if $end.Nanosecond -}}{{- $seconds = add $seconds 1 -}}{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- /* Fails if a list or a map is empty: (list "what" value), and gives it as YAML. */ -}}
{{- define "piko.required" -}}
{{- if not (index . 1) -}}{{- fail (index . 0) -}}{{- end -}}
{{- toYaml (index . 1) -}}
{{- end -}}

{{- /* The value at a dotted path of a map, as YAML, or "": (list map "a.b"). */ -}}
{{- define "piko.at" -}}
{{- $at := index . 0 -}}
{{- range splitList "." (index . 1) -}}
{{- if kindIs "map" $at -}}{{- $at = get $at . -}}{{- else -}}{{- $at = "" -}}{{- end -}}
{{- end -}}
{{- if or $at (kindIs "bool" $at) -}}{{- toYaml $at -}}{{- end -}}
{{- end -}}

{{- /* Refuses keys of the file that the chart writes itself: (list "server.config" map (dict "a.b" "what to use")). */ -}}
{{- define "piko.reserved" -}}
{{- $where := index . 0 -}}
{{- $config := index . 1 -}}
{{- range $path, $use := index . 2 -}}
{{- if include "piko.at" (list $config $path) -}}
{{- fail (printf "%s.%s: is written by the chart; use %s" $where $path $use) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A map without what piko takes over while it runs, so that its hash says whether a
       restart is needed: (list map paths). files/reloaded.json has them, made by a test of piko. */ -}}
{{- define "piko.needsRestart" -}}
{{- $config := deepCopy (index . 0) -}}
{{- range index . 1 -}}
{{- $parts := splitList "." . -}}
{{- range $n := untilStep (len $parts) 0 -1 -}}
{{- $at := $config -}}
{{- range slice $parts 0 (sub $n 1) -}}
{{- if kindIs "map" $at -}}{{- $at = get $at . -}}{{- end -}}
{{- end -}}
{{- $key := index $parts (sub $n 1) -}}
{{- if kindIs "map" $at -}}
{{- if or (eq $n (len $parts)) (not (get $at $key)) -}}{{- $_ := unset $at $key -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
