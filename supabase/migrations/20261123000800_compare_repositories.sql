-- One project per user and repository, however its URL is spelt: x, x.git, x/, git@host:owner/x, in any case. `repo_url` stays
-- as it was sent; owner and name are what the API read in it, and the host stands between `git@` and `:`, or `://` and `/`.
create unique index projects_user_id_repository_key on public.projects (
    user_id, lower(repo_owner), lower(repo_name),
    lower(coalesce(substring(repo_url from 'git@([^:/]+):'), substring(repo_url from '://([^/]+)/'))));
