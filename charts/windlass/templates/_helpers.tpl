{{/* The start of every object's name. */}}
{{- define "windlass.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "windlass.labels" -}}
app.kubernetes.io/name: windlass
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "windlass.selector" -}}
app.kubernetes.io/name: windlass
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Pod Security restricted. */}}
{{- define "windlass.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "windlass.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Volumes of a list of host-root mounts, one for each claim. */}}
{{- define "windlass.hostVolumes" -}}
{{- $claims := list -}}
{{- range . }}{{ $claims = append $claims .claim }}{{ end -}}
{{- range uniq $claims }}
- name: {{ . }}
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "windlass.hostMounts" -}}
{{- range . }}
- name: {{ .claim }}
  mountPath: {{ .mountPath }}
  readOnly: true
  {{- with .subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "windlass.reportService" -}}{{ include "windlass.name" . }}-reports{{- end -}}
{{- define "windlass.lease" -}}{{ include "windlass.name" . }}-operator{{- end -}}
